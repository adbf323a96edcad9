"""Words of the command line, --config, help, refusals: what tyro leaves to us."""
