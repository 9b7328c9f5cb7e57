"""Installs what the tests of the crates need too (qemu-img and qemu-io): see prepare.py."""

import prepare

prepare.apt(prepare.APT_PACKAGES)
prepare.virtual_environment()
