"""Other projects' names, signatures and checkpoints, as tables over this project's own parts."""
