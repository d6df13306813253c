package registry

import (
	"reflect"
	"testing"
)

func TestPlaces(t *testing.T) {
	s, err := Parse("registries.yaml", []byte(`
mirrors:
  docker.io: {endpoint: ["https://near.example:5000", "http://far.example/root"], rewrite: {"^(.*)$": "hub/$1"}}
  "*": {endpoint: ["https://any.example"]}
configs:
  near.example:5000: {auth: {username: u, password: p}}
  docker.io: {auth: {auth: aHViOnNlY3JldA==}}
  only.example: {tls: {insecure_skip_verify: true}}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	near := Config{Auth: Auth{Username: "u", Password: "p"}}
	hub := Config{Auth: Auth{Encoded: "aHViOnNlY3JldA=="}}
	loose := Config{TLS: TLS{InsecureSkipVerify: true}}
	mirrors := []Place{{"https://near.example:5000/v2/hub", true, near}, {"http://far.example/root/hub", true, Config{}}}
	anywhere := Place{"https://any.example/v2", true, Config{}}
	for _, tt := range []struct {
		registry  string
		noDefault bool
		want      []Place
	}{
		{"docker.io", false, append(mirrors[:2:2], Place{"https://registry-1.docker.io/v2", false, hub})},
		{"registry-1.docker.io", true, mirrors},
		{"only.example", false, []Place{anywhere, {"https://only.example/v2", false, loose}}},
		{"other.example:8443", false, []Place{anywhere, {"https://other.example:8443/v2", false, Config{}}}},
	} {
		if got := s.Places(tt.registry, tt.noDefault); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.registry, got, tt.want)
		}
	}
	if got := (Settings{}).Places("a.example", true); !reflect.DeepEqual(got, []Place{{"https://a.example/v2", false, Config{}}}) {
		t.Errorf("without mirrors, the registry itself is asked: got %+v", got)
	}
}

func TestBasic(t *testing.T) {
	for _, tt := range []struct {
		auth           Auth
		user, password string
	}{
		{Auth{}, "", ""},
		{Auth{Username: "u", Password: "p", Encoded: "aHViOnNlY3JldA=="}, "u", "p"},
		{Auth{Encoded: "aHViOnNlOmNyZXQ="}, "hub", "se:cret"},
		{Auth{IdentityToken: "t", Encoded: "aHViOnNlY3JldA=="}, "", ""},
	} {
		if user, password := tt.auth.Basic(); user != tt.user || password != tt.password {
			t.Errorf("got %q, %q; want %q, %q", user, password, tt.user, tt.password)
		}
	}
}
