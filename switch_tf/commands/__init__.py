"""The `switch-tf` command: one module a subcommand, each with `main(argv)`."""
