"""The usage journal: no request a client saw is lost or counted twice."""
