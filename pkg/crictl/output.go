package crictl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// Formats are the values of --output.
const (
	Table = "table"
	JSON  = "json"
	YAML  = "yaml"
)

// shortID is how many characters of an id a table shows, as crictl does.
const shortID = 13

// short is an id for a table.
func short(id string, whole bool) string {
	id = strings.TrimPrefix(id, "sha256:")
	if whole || len(id) <= shortID {
		return id
	}
	return id[:shortID]
}

// ago is the age of a time in nanoseconds since 1970, as the CRI has it.
func (c *Client) ago(nanoseconds int64) string {
	if nanoseconds == 0 {
		return "unknown"
	}
	return units.HumanDuration(c.now().Sub(time.Unix(0, nanoseconds))) + " ago"
}

// size is a number of bytes in decimal units.
func size(bytes uint64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// table writes rows below a header, in columns.
func (c *Client) table(rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		if _, err := io.WriteString(w, strings.Join(row, "\t")+"\n"); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// lines writes one value a line, for --quiet.
func (c *Client) lines(values []string) error {
	for _, v := range values {
		if _, err := fmt.Fprintln(c.out, v); err != nil {
			return fmt.Errorf("write ids: %w", err)
		}
	}
	return nil
}

// message writes a message of the CRI as JSON or YAML.
func (c *Client) message(m proto.Message, format string) error {
	raw, err := rawMessage(m)
	if err != nil {
		return err
	}
	return c.document(raw, format)
}

// rawMessage is a message as JSON, with fields that have their default as well.
func rawMessage(m proto.Message) (json.RawMessage, error) {
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode answer of the runtime: %w", err)
	}
	return data, nil
}

// document writes a value as JSON or YAML.
func (c *Client) document(value any, format string) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode answer of the runtime: %w", err)
	}
	if format == YAML {
		data, err = yaml.JSONToYAML(data)
	} else {
		var indented bytes.Buffer
		err = json.Indent(&indented, data, "", "  ")
		data = append(indented.Bytes(), '\n')
	}
	if err != nil {
		return fmt.Errorf("encode answer of the runtime: %w", err)
	}
	if _, err := c.out.Write(data); err != nil {
		return fmt.Errorf("write answer of the runtime: %w", err)
	}
	return nil
}

// verbose joins a status with the runtime's extra information, whose values are
// JSON documents in strings.
func verbose(status proto.Message, info map[string]string) (any, error) {
	raw, err := rawMessage(status)
	if err != nil {
		return nil, err
	}
	document := map[string]any{"status": raw}
	if extra := infoFields(info); len(extra) > 0 {
		document["info"] = extra
	}
	return document, nil
}

// infoFields turns information values into JSON where they are JSON. containerd
// keeps all of it in the one value "info"; that is not nested a second time.
func infoFields(info map[string]string) map[string]json.RawMessage {
	fields := map[string]json.RawMessage{}
	for key, value := range info {
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			quoted, err := json.Marshal(value)
			if err != nil {
				continue // a string always encodes
			}
			raw = quoted
		}
		fields[key] = raw
	}
	inner := map[string]json.RawMessage{}
	if only, ok := fields["info"]; ok && len(fields) == 1 && json.Unmarshal(only, &inner) == nil {
		return inner
	}
	return fields
}
