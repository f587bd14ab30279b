"""Making a corpus, of own text or of one that the field knows by name (`by_name`)."""
