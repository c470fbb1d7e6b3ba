"""The `switch-tf` command, with one module per subcommand, each defining `main(argv)`."""
