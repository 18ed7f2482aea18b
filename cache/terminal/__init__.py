"""How commands speak to people and programs: console, options, defaults, pages."""
