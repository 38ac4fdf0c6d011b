"""The bundle format: manifest, writer, reader."""
