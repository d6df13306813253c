package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// nodeName takes a name for the node. The kubelet makes it a label's value
// (kubernetes.io/hostname), too, hence the limit below that of RFC 1123 names;
// as the kubelet does, it is put in lower case.
func nodeName() parser[string] {
	return parser[string]{
		"a name of at most 63 characters: lower case letters, digits, '-' and '.', a letter or digit at both ends (RFC 1123)",
		func(_ *Input, text string) (string, error) {
			name := strings.ToLower(text)
			if len(name) > validation.LabelValueMaxLength {
				return "", fmt.Errorf("has %d characters", len(name))
			}
			if len(validation.IsDNS1123Subdomain(name)) > 0 {
				return "", errors.New("not a node name")
			}
			return name, nil
		}, false}
}

// ownLabels are the keys below kubernetes.io that a kubelet may set on its own
// node, and ownNamespaces the namespaces whose keys it may
// (k8s.io/kubelet/pkg/apis/well_known_labels.go:35-55); the kubelet does not
// start with another (cmd/kubelet/app/options/options.go:154).
func ownLabels() []string {
	return []string{
		"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch",
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
		"node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type",
	}
}

func ownNamespaces() []string { return []string{"kubelet.kubernetes.io", "node.kubernetes.io"} }

// within reports whether a namespace is domain or below it.
func within(namespace, domain string) bool {
	return namespace == domain || strings.HasSuffix(namespace, "."+domain)
}

// nodeLabel takes key=value; the value may be empty or missing.
func nodeLabel() parser[Label] {
	return parser[Label]{"KEY=VALUE", func(_ *Input, text string) (Label, error) {
		key, value, _ := strings.Cut(text, "=")
		if err := checkKey(key); err != nil {
			return Label{}, err
		}
		if err := checkValue(value); err != nil {
			return Label{}, err
		}
		namespace, _, ok := strings.Cut(key, "/")
		reserved := ok && (within(namespace, "kubernetes.io") || within(namespace, "k8s.io"))
		own := slices.Contains(ownLabels(), key) ||
			slices.ContainsFunc(ownNamespaces(), func(d string) bool { return within(namespace, d) })
		if reserved && !own {
			return Label{}, fmt.Errorf("a kubelet may not give its own node the label %s: set it with `knarr kubectl label node` "+
				"or use a key below node.kubernetes.io/ or of your own domain", key)
		}
		return Label{key, value}, nil
	}, false}
}

// nodeTaint takes key=value:effect; "=value" may be missing.
func nodeTaint() parser[Taint] {
	effects := []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
	p := parser[Taint]{allowed: "KEY[=VALUE]:EFFECT with the effect " + oneOf(effects)}
	p.parse = func(_ *Input, text string) (Taint, error) {
		rest, effect, ok := strings.Cut(text, ":")
		if !ok {
			return Taint{}, errors.New("the effect is missing")
		}
		if !slices.Contains(effects, effect) {
			if hint := nearest(effect, effects); hint != "" {
				return Taint{}, fmt.Errorf("unknown effect %q, did you mean %s", effect, hint)
			}
			return Taint{}, fmt.Errorf("unknown effect %q", effect)
		}
		key, value, _ := strings.Cut(rest, "=")
		if err := checkKey(key); err != nil {
			return Taint{}, err
		}
		if err := checkValue(value); err != nil {
			return Taint{}, err
		}
		return Taint{key, value, effect}, nil
	}
	return p
}

func checkKey(key string) error {
	if key == "" {
		return errors.New("the key is empty")
	}
	if len(validation.IsQualifiedName(key)) > 0 {
		return fmt.Errorf("bad key %q (want [DOMAIN/]NAME; NAME of at most 63 letters, digits, '-', '_' and '.', "+
			"a letter or digit at both ends)", key)
	}
	return nil
}

func checkValue(value string) error {
	if len(validation.IsValidLabelValue(value)) > 0 {
		return fmt.Errorf("bad value %q (want at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends)", value)
	}
	return nil
}

// componentArg takes an extra argument of a component and gives it without its
// leading dashes.
func componentArg() parser[string] {
	return parser[string]{"KEY=VALUE or KEY, a flag of the component", func(_ *Input, text string) (string, error) {
		text = strings.TrimLeft(text, "-")
		key, _, _ := SplitArg(text)
		switch {
		case key == "":
			return "", errors.New("the key is empty")
		case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return "", errors.New("the key holds a space")
		}
		return text, nil
	}, false}
}

// SplitArg splits an extra argument of a component, as [ServerArgs] holds it,
// into its key and value; hasValue tells "key=" from "key".
func SplitArg(arg string) (key, value string, hasValue bool) {
	return strings.Cut(arg, "=")
}
