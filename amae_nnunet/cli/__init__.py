"""Console scripts: one file each. What they need is imported late, so that --help is instant."""
