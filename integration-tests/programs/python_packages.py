"""Makes a wheel, and a source archive whose `setup.py` leaves a trace, in the directory argv[1]."""

import io
import os
import sys
import tarfile
import zipfile

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)

ABOUT = "Metadata-Version: 2.1\nName: {}\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

with zipfile.ZipFile(f"{directory}/demo_wheel-1.0-py3-none-any.whl", "w") as wheel:
    files = {
        "demo_wheel.py": "ANSWER = 42\n",
        "demo_wheel-1.0.dist-info/METADATA": ABOUT.format("demo-wheel"),
        "demo_wheel-1.0.dist-info/WHEEL": WHEEL,
    }
    record = "".join(f"{name},,\n" for name in files)
    files["demo_wheel-1.0.dist-info/RECORD"] = record + "demo_wheel-1.0.dist-info/RECORD,,\n"
    for name, text in files.items():
        wheel.writestr(name, text)

SETUP = "open('/work/ran', 'w')\nimport setuptools\nsetuptools.setup(name='demo-source', version='1.0')\n"
with tarfile.open(f"{directory}/demo_source-1.0.tar.gz", "w:gz") as source:
    for name, text in {"setup.py": SETUP, "PKG-INFO": ABOUT.format("demo-source")}.items():
        entry = tarfile.TarInfo(f"demo_source-1.0/{name}")
        entry.size = len(text)
        source.addfile(entry, io.BytesIO(text.encode()))
