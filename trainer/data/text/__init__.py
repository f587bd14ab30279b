"""Files as they are found: named, recognised by their bytes, unpacked, cut into pieces."""
