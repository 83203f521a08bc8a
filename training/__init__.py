"""From a folder of photos to released weights and an archive."""
