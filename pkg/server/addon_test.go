package server

import (
	"strings"
	"testing"
)

// Every value that a bundled manifest names has to be there, on clusters of any kind.
func TestBundledManifests(t *testing.T) {
	for _, line := range [][]string{nil, {"cluster-cidr=10.42.0.0/16,fd00:42::/56", "service-cidr=10.43.0.0/16,fd00:43::/112"}, {"cluster-domain=site.example", "disable=roles"}} {
		c := given(t, line...).addonConfig()
		if len(c.Packaged) == 0 {
			t.Error("there are no bundled manifests")
		}
		for _, p := range c.Packaged {
			data, err := p.Read()
			if err != nil || strings.Contains(string(data), "%{") {
				t.Errorf("%v: %s: %v\n%s", line, p.Path, err, data)
			}
		}
	}
}
