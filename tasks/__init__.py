"""SeqIO tasks and mixtures; importing a module registers those that it defines."""

if __name__ != "switch_tf.tasks":
    # Reached when Python runs in the repository's folder and takes `tasks` for a package of its
    # own, which would register every task twice.
    raise ModuleNotFoundError(f"the folder {__name__} is the package switch_tf.tasks: import that")
