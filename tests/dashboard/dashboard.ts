// What monitoring/dashboard.json may hold: Grafana's types for what it uses, and no other key.
import type {
  AnnotationQuery, Dashboard as AnyDashboard, DataQuery, FieldConfig, GraphFieldConfig, Panel,
  RowPanel, VariableModel,
} from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as TimeSeriesOptions } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// Of the data source for Prometheus, which the schema leaves out.
interface Source {
  type: "prometheus";
  uid: string;
}
export interface Query extends DataQuery {
  datasource: Source;
  expr: string;
  legendFormat: string;
}
export interface Annotation extends AnnotationQuery {
  datasource: Source;
  target: DataQuery & { expr: string };
  titleFormat: string;
}
type Kept = "label" | "name";
interface SourceVariable extends Required<Pick<VariableModel, Kept>> {
  type: "datasource";
  query: Source["type"];
}
interface QueryVariable extends Required<Pick<VariableModel, Kept | "refresh" | "sort">> {
  type: "query";
  datasource: Source;
  query: { qryType: 1; query: string; refId: string }; // 1: values of a label
}

type Settings<Custom> = Omit<FieldConfig, "custom"> & {
  [Key in keyof Custom as `custom.${Key & string}`]: Custom[Key];
};
type Property<All> = { [Key in keyof All]-?: { id: Key; value: NonNullable<All[Key]> } }[keyof All];
interface PanelOf<Type, Options, Custom>
  extends Required<Pick<Panel, "gridPos" | "id" | "title">>, Pick<Panel, "description"> {
  type: Type;
  datasource: Source;
  targets: Query[];
  options: Options;
  fieldConfig: {
    defaults: Omit<FieldConfig, "custom"> & { custom?: Custom };
    overrides: {
      matcher: { id: "byName" | "byRegexp"; options: string };
      properties: Property<Settings<Custom>>[];
    }[];
  };
}
type TimeSeriesPanel = PanelOf<"timeseries", TimeSeriesOptions, GraphFieldConfig>;
type StatPanel = PanelOf<"stat", StatOptions, {}>;
type Row = RowPanel & Required<Pick<RowPanel, "gridPos" | "title">>;

interface Whole extends Omit<AnyDashboard, "annotations" | "panels" | "templating"> {
  annotations: { list: Annotation[] };
  panels: (Row | TimeSeriesPanel | StatPanel)[];
  templating: { list: (SourceVariable | QueryVariable)[] };
}

// JSON names the members of Grafana's enums by strings.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T;
export type Dashboard = Plain<Whole>;
