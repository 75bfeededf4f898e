"""The parts that all routes share: binding, routing, the guard, responses, and the OpenAPI document."""
