"""OneFlow: services, their templates, and what changes them."""
