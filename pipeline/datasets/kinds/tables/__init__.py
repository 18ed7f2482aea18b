"""Tables that name image files: what they say, column by column, and which files they mean."""
