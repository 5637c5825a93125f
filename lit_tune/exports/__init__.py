"""Our weights as folders that other people's tools load; one module a format, none of which needs torch."""
