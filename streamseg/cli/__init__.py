"""The command line; logging is set up here and nowhere else."""
