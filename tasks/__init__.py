if __name__ != "switch_tf.tasks":
    # In the repository's folder, where Python would take this folder for a package of its own, and
    # register every task twice.
    raise ModuleNotFoundError(f"the folder {__name__} is the package switch_tf.tasks: import that")
