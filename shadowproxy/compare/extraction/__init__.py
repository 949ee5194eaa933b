"""From captured bytes to what is compared: bodies to documents, documents to what a route's expressions find."""
