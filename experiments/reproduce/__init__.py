"""The papers' tables: what each takes, running what is missing, results beside theirs."""
