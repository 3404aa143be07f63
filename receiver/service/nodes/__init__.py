"""Several processes on one database: who does which duty, and how they wake and call each other."""
