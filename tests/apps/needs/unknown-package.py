"""A package that no index has"""
#: dependencies = ["oneflower-no-such-package"]
#: refused = "oneflower-no-such-package"
import no_such_package
