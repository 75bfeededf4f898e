"""The observation feed over HTTP: WebSockets, server-sent events and pages."""
