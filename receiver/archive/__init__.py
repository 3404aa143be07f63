"""Download results and keep them, in the archive folder and on S3."""
