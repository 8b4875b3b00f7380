"""ST-SSDL: forecasts at the sensors of a graph, by how far the present is from its own history."""
