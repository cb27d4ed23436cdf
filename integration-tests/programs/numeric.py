"""Linear algebra, a data frame and a plot; leaves sums.csv and plot.png."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

random = np.random.default_rng(7)
a = random.standard_normal((300, 300))
symmetric = a @ a.T + 300 * np.eye(300)
solution = np.linalg.solve(symmetric, np.ones(300))
assert np.allclose(symmetric @ solution, 1)
assert np.allclose(np.fft.ifft(np.fft.fft(a)).real, a)

frame = pd.DataFrame({"group": list("abc") * 100, "value": range(300)})
frame.groupby("group")["value"].sum().to_csv("sums.csv")

figure, axes = plt.subplots(figsize=(4, 3), dpi=100)
axes.plot(frame["value"], np.sin(frame["value"] / 20))
axes.set_title("Zürich → 東")
figure.savefig("plot.png")
