"""Golden files: the wire format, frozen; and the JSON that Mongoose writes."""
