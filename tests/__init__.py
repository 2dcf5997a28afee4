"""The tests: `unit` needs no server, `integration` runs on real ones, `repo` looks at what surrounds the code."""
