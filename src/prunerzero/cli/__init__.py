"""The command line: one file a command, assembled in `prunerzero.cli.app`."""
