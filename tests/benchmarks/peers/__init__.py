"""Other engines that compute what kbtool computes, for the benchmark and for checks of its answers."""
