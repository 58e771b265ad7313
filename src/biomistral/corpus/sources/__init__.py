"""Where raw documents come from: folders, archives, dumps, records, code lists, each read as a stream."""
