"""Label names, ids and arrays."""
