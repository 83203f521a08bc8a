"""What goes into the archive: preprocessing, and the class that TorchServe calls."""
