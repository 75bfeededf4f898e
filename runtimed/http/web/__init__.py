"""What every route shares: binding, routing, the guard, responses, and the OpenAPI document."""
