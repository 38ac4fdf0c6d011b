"""A numpy interpreter of saved Core ML packages: reads the files back and executes them."""
