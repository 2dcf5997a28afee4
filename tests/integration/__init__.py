"""Tests on real servers, by area: each is named like the package that it tests."""
