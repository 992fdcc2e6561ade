"""Building blocks of networks; import them from their own files."""
