"""OneFlow: services, their templates, and what moves them."""
