"""Programs beside the tests are not collected: importing them has effects."""

collect_ignore = ["killing.py", "two_processes.py"]
