"""Networks and programs that judge outputs, their features, their weights and statistics files."""
