"""An outside project that cimports ipsec_fast: the .pxd files come with the installed package, nothing else is needed."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="loopback", ext_modules=cythonize([Extension("loopback", ["loopback.pyx"])], language_level=3))
