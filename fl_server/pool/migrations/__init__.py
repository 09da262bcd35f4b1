"""How the tables of a pool came to be, one file a step."""
