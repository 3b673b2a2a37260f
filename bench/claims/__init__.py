"""Studies behind the project's claims on accuracy: what is run, the runs, and what came out."""
