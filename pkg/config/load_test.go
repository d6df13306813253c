package config

import "testing"

func TestDefaults(t *testing.T) {
	s, err := LoadServer(Input{Hostname: "Box"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Node.Name != "box" || s.APIServerURL() != "https://127.0.0.1:6443" || s.ClusterDNS().At(0).String() != "10.43.0.10" {
		t.Errorf("%+v", s)
	}
}
