package helm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// layer is one source of values.
type layer struct {
	from string // as users know it
	text []byte // YAML or JSON
	// silent layers do not make an upgrade necessary by themselves.
	silent bool
}

// secretReader returns the data of a Secret in the chart's namespace.
type secretReader func(ctx context.Context, name string) (map[string][]byte, error)

// layers collects the sources of values, the weakest first, in the order that k3s documents: the HelmChart's content,
// object and Secrets, then those of the HelmChartConfig, which may be nil. What spec.set has comes last of all.
func layers(ctx context.Context, chart ChartSpec, config *ConfigSpec, secret secretReader) ([]layer, error) {
	all, err := sources(ctx, "", chart.ValuesContent, chart.Values, chart.ValuesSecrets, secret)
	if err != nil || config == nil {
		return all, err
	}
	more, err := sources(ctx, "HelmChartConfig ", config.ValuesContent, config.Values, config.ValuesSecrets, secret)
	return append(all, more...), err
}

func sources(ctx context.Context, of, content string, object json.RawMessage, refs []SecretKeys, secret secretReader) ([]layer, error) {
	var all []layer
	if content != "" {
		all = append(all, layer{from: of + "spec.valuesContent", text: []byte(content)})
	}
	if len(object) > 0 && string(object) != "null" {
		all = append(all, layer{from: of + "spec.values", text: object})
	}
	for _, ref := range refs {
		if len(ref.Keys) == 0 {
			continue
		}
		data, err := secret(ctx, ref.Name)
		if apierrors.IsNotFound(err) && ref.IgnoreUpdates {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the Secret %s of %sspec.valuesSecrets: %w", ref.Name, of, err)
		}
		for _, key := range ref.Keys {
			text, ok := data[key]
			if !ok && ref.IgnoreUpdates {
				continue
			}
			if !ok {
				return nil, fmt.Errorf("read %sspec.valuesSecrets: the Secret %s has no key %q", of, ref.Name, key)
			}
			all = append(all, layer{from: "Secret " + ref.Name + ", key " + key, text: text, silent: ref.IgnoreUpdates})
		}
	}
	return all, nil
}

// mergeValues is what the chart is rendered with: later layers win over earlier ones, key by key, and set over all.
func mergeValues(all []layer, set map[string]intstr.IntOrString) (map[string]any, error) {
	merged := map[string]any{}
	for _, l := range all {
		values, err := loader.LoadValues(bytes.NewReader(l.text))
		if err != nil {
			return nil, permanent{fmt.Errorf("read values from %s: %w", l.from, err)}
		}
		merged = loader.MergeMaps(merged, values)
	}
	// As k3s passes them to helm: first what has a type, --set, then texts, --set-string.
	for _, typed := range []bool{true, false} {
		for _, key := range slices.Sorted(maps.Keys(set)) {
			if hasType(set[key]) != typed {
				continue
			}
			value := set[key]
			parse, text := strvals.ParseIntoString, escapeCommas(value.String())
			if typed {
				parse, text = strvals.ParseInto, value.String()
			}
			if err := parse(key+"="+text, merged); err != nil {
				return nil, permanent{fmt.Errorf("read spec.set[%q]: %w", key, err)}
			}
		}
	}
	return merged, nil
}

// hasType tells whether a value of spec.set is more than a text.
func hasType(v intstr.IntOrString) bool {
	return v.Type == intstr.Int || slices.Contains([]string{"true", "false", "null"}, strings.ToLower(v.StrVal))
}

// escapeCommas keeps Helm from taking a comma in a text for the next key; those already escaped stay as they are.
func escapeCommas(text string) string {
	return regexp.MustCompile(`\\*,`).ReplaceAllStringFunc(text, func(match string) string {
		if len(match)%2 == 0 {
			return match
		}
		return `\` + match
	})
}

// fingerprint tells two wishes for a release apart. It is kept as a label of the release, which limits its length.
func fingerprint(s ChartSpec, all []layer) (string, error) {
	var texts []string
	for _, l := range all {
		if !l.silent {
			texts = append(texts, l.from, string(l.text))
		}
	}
	text, err := json.Marshal([]any{
		s.TargetNamespace, s.Chart, s.Version, s.Repo, s.ChartContent, s.Set, s.TakeOwnership, s.ServerSide, s.ForceConflicts, texts,
	})
	if err != nil {
		return "", fmt.Errorf("encode the chart's wishes: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}
