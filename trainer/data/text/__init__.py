"""Finding text files, recognising them by their bytes, unpacking and cutting them into pieces."""
