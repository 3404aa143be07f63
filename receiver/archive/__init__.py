"""Download results and keep them: the archive folder and its copy on S3."""
