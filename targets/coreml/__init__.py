"""The Core ML target: a canonical graph and its decisions become an `.mlpackage`."""
