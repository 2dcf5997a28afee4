"""`make demo` shows the whole path on real servers: events in, the cache follows, every key is checked."""
