"""Tests without servers, builds and subprocesses."""
